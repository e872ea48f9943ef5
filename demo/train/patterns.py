"""The patterns that templates.py fills, one a line, and the words of their `{slot}`s (others are methods there)."""

from __future__ import annotations

ASSISTANT = """
Your order has been shipped and should arrive {soon}.
Your order number is {digits}.
Your {item} will arrive on {day}, {date}.
Your {item} is on its way and should be there by {time}.
I have set an alarm for {time}.
I have set a timer for {span}.
Okay, I will remind you to {act} at {time}.
Okay, I will remind you to {act} {when}.
Sure, I can help you with that.
Sure, let me check the {app} for you.
I am sorry, I could not find {name} in your contacts.
I am sorry, but the {item} is out of stock until {month}.
Your confirmation code is {digits}.
The code is {digits}. It is valid for {span}.
Your verification code is {digits}. Please do not share it with anyone.
Your reservation for {n} people is confirmed for {time} on {day}.
You have {n} new messages and {n} missed calls.
You have a meeting with {name} at {time} {when}.
The total is {price}, including tax.
That will be {price}, please.
Would you like to pay {price} now or later?
Your balance is {price}.
Your payment of {price} was received on {date}.
Your refund of {price} should reach your account within {n} business days.
The ticket to {city} costs {price}.
The next train to {city} leaves at {time} from platform {n}.
Flight {room} to {city} departs at {time} from gate {letter} {n}.
The flight from {city} to {city} takes about {n} hours.
It is {n} degrees and {weather} in {city} right now.
Tomorrow will be {weather}, with a high of {nn} degrees.
The chance of rain in {city} is {percent} {when}.
The current time in {city} is {time}.
Please hold the line while I connect you to {name}.
Can I have your account number, please?
Could you please repeat the last {n} digits?
Let me read that back to you: {phone}.
Is the number {phone} still correct?
You can reach us at {phone} on weekdays.
Please call {name} {surname} at {phone}.
My phone number is {phone}.
Do you want me to call {name} at home or at work?
Playing the next song. Let me know if you want to skip it.
Turning the volume up to {n}.
I have added {food} and {drink} to your shopping list.
I have turned off the lights in the {color} room.
The battery is at {percent}.
Your download is {percent} complete.
Please open the {app} and try again.
Please restart your {item} and wait for {span}.
In {nn} meters, turn left onto {street} Street.
Turn right onto {street} Avenue, then keep straight for {n} miles.
Your destination is on the right, next to the {place}.
The {place} is closed on {day}.
The {place} opens at {time} and closes at {time}.
Thank you for calling. How may I direct your call?
Thank you, {name}. Is there anything else I can help you with?
Welcome back, {name}. What would you like to do today?
Your appointment with doctor {surname} is on {date} at {time}.
I can offer you {day} at {time} or {day} at {time}.
To cancel your order, please say yes.
For sales press {n}, for support press {n}.
I did not understand that. Could you say it another way?
Here is what I found about the {place} in {city}.
Your {item} has a warranty of {n} years.
We have received your request and will get back to you {soon}.
One of our agents will call you back {soon}.
A {job} will visit you on {day} between {time} and {time}.
Your room number is {room}, on the {ordinal} floor.
Checkout is at {time}, and breakfast starts at {time}.
The wifi password is {digits}.
I have moved your meeting with {name} to {day} at {time}.
Your table by the window is ready.
I have sent the receipt to your email.
Please say your date of birth.
Your date of birth is {date}, {year}. Is that right?
"""

TALK = """
{name} and {name} are going to {city} in {month}.
{name} lives at {room} {street} Street.
{name} lives in {city} with a {animal} and {n} {color} fish.
{name} {surname} has worked as a {job} since {year}.
{name} was born on {date}, {year}.
My {kin} is a {job} in {city}.
My {kin} bought a {color} {item} for {price}.
My {kin} lost the {thing} at the {place}.
My {kin} wants {food} for dinner {when}.
I would like {food} and a glass of {drink}, please.
I had {food} for breakfast and {food} for lunch.
Do you prefer {food} or {food}?
Can I get you some {drink}?
Could you pass me the {thing}, please?
Where did you put my {thing}?
Have you seen my {color} {thing}?
I think I left my {thing} at the {place}.
The {thing} is next to the {color} {item}.
How far is it from here to the {place}?
Is there a {place} near the {place}?
Excuse me, how do I get to the {place}?
How much is that {color} {item}?
What time does the {place} open on {day}?
When will {name} be back from {city}?
Why is {name} so {mood} {when}?
Who left the {thing} in the kitchen?
What is the weather like in {city}?
Are you {mood}, {name}?
You look {mood} {when}.
I feel a bit {mood}, but it will pass.
It is so {weather} that we should stay at home.
It was {weather} in {city} on {day}.
We are meeting at the {place} at {time}.
We have to {act} before {time}.
I need to {act} and then {act}.
Please {act} before you leave.
Do not forget to {act} {when}.
Could you {act} for me?
{name}, can you {act} {when}?
I promise to {act} {when}.
Let us {act} first and talk later.
The {animal} slept on the {color} blanket for {span}.
The {animal} ran across the road and into the garden.
A {color} {animal} sat on the fence.
There were {nn} people at the {place} on {day}.
There are {n} {color} chairs and {n} tables in the room.
About {percent} of the students passed the test.
The price went up by {percent} in {month}.
The city of {city} was very {weather} in {month} {year}.
The house on {street} Street was built in {year}.
The book has {nn} pages and {n} chapters.
The {place} is {nnn} meters away.
The company has {nnn} workers in {city}.
It took us {span} to reach {city}.
I have been waiting for {span}.
The meeting lasted {span}.
Take the {ordinal} street on the left.
She finished in {ordinal} place.
He won {price} on his {ordinal} try.
They were married on {date}.
The party is on {day}, {date}, at {time}.
See you on {day} at {time}.
Good morning, {name}. Did you sleep well?
Good evening, {name}. How was your day?
Hi {name}, it's {name}. Call me back when you can.
Hello, this is {name} {surname} from the {place}.
Nice to meet you, {name}.
Happy birthday, {name}!
Congratulations, {name}! You must be so {mood}.
Thanks a lot, {name}.
Take care, {name}, and say hello to your {kin}.
Have a nice trip to {city}!
Yes, of course.
Yes, I think {name} would like that.
No, thank you. I already had {drink}.
No, I don't need to {act}.
Maybe {name} can help us {when}.
I'm not sure, ask {name}.
Sorry, I was in {city} {span} ago.
Wait, is that {name} over there?
Well, {name} told me something else.
Oh, I see. The {item} was too expensive.
That's right, it costs {price}.
That's {name}'s {item}, isn't it?
Really? I thought it was {time}.
It's {time}. We should go.
It's {n} minutes past {n}.
Count with me: {digits}.
{nn} plus {n} is more than {n}.
We need {n} eggs, {n} apples, and some {drink}.
They sold {nnn} copies in {n} weeks.
He is {n} years old and she is {n}.
She paid {price} for {n} tickets.
My new address is {room} {street} Road, {city}.
If it is {weather} {when}, we will go to the {place}.
If you see {name}, tell her to {act}.
When I was {n}, we moved from {city} to {city}.
While {name} was cooking, the {animal} ate the cake.
I don't know whether {name} or {name} has the {thing}.
She didn't {act}, because she was too {mood}.
He said that he would {act} {when}.
They've never been to {city}, but they'd love to go.
We'll be there by {time}, unless the train is late.
You shouldn't worry about the {thing}.
Isn't the {place} closed on {day}?
Can't we {act} {when}?
What would you do with {price}?
Which one is yours, the {color} one or the {color} one?
Whose {thing} is this?
"""

WORDS = """
name: Anna|Ben|Carla|David|Emma|Frank|Grace|Henry|Irene|Jack|Karen|Leo|Maria|Nathan|Olivia
name: Paul|Quinn|Rachel|Sam|Tara|Victor|Wendy|Alice|Brian|Chloe|Daniel|Ella|George|Hannah
name: Isaac|Julia|Kevin|Laura|Michael|Nora|Oscar|Peter|Rosa|Simon|Tina|Walter|Zoe|Amy
name: Charles|Diana|Eric|Fiona|Helen|James|Linda|Martin|Nina|Robert|Sarah|Thomas|Lucy|Mark
name: Sophie|Andrew|Claire|Steven|Megan|Jason|Emily|Ryan|Jessica
surname: Smith|Johnson|Brown|Miller|Davis|Wilson|Moore|Taylor|Anderson|Thomas|Jackson|White
surname: Harris|Martin|Thompson|Garcia|Clark|Lewis|Walker|Hall|Young|King|Wright|Hill|Green
surname: Adams|Baker|Nelson|Carter|Mitchell|Parker|Evans|Turner|Collins|Edwards|Stewart|Morris
surname: Murphy|Cook|Rogers|Morgan|Cooper|Reed|Bailey|Bell
city: London|Paris|New York|Boston|Chicago|Seattle|Denver|Dallas|Atlanta|Miami|Toronto|Berlin
city: Madrid|Rome|Vienna|Dublin|Oslo|Tokyo|Sydney|Lisbon|Prague|Austin|Portland|Phoenix
city: Detroit|Houston|San Diego|San Francisco|Los Angeles|Las Vegas|Philadelphia|Baltimore
city: Cleveland|Montreal|Vancouver|Amsterdam|Brussels|Barcelona|Munich|Zurich|Athens|Cairo
city: Mumbai|Singapore|Hong Kong|Melbourne|Auckland|Edinburgh|Manchester|Stockholm
day: Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday
month: January|February|March|April|May|June|July|August|September|October|November|December
item: jacket|laptop|phone|lamp|desk|chair|keyboard|blender|backpack|watch|camera|printer
item: bicycle|tent|kettle|toaster|mattress|rug|mirror|sweater|pair of shoes|coffee maker
item: vacuum cleaner|pair of headphones|charger|monitor|bookshelf|garden hose|drill|umbrella
item: suitcase|raincoat|blanket|guitar|router|microphone|speaker|tablet
food: pizza|a salad|chicken soup|pasta|rice and beans|fish and chips|a sandwich|pancakes
food: eggs and toast|a burger|roast potatoes|noodles|apple pie|fresh bread|vegetable curry|tacos
food: grilled cheese|oatmeal|a fruit salad|sushi
drink: coffee|green tea|water|orange juice|lemonade|hot chocolate|milk|iced tea|sparkling water
place: library|museum|post office|bank|hospital|train station|airport|market|park|school|gym
place: pharmacy|hotel|church|theater|bakery|police station|city hall|swimming pool|bookstore
place: garage|restaurant|coffee shop|stadium|zoo
kin: mother|father|sister|brother|aunt|uncle|cousin|grandfather|grandmother|daughter|son
kin: neighbor|boss
color: red|blue|green|yellow|black|white|gray|brown|purple|orange|pink|silver
animal: dog|cat|horse|rabbit|bird|turtle|goat|sheep|parrot|duck|fox|squirrel
job: doctor|nurse|teacher|lawyer|plumber|driver|chef|farmer|pilot|engineer|writer|painter
job: baker|dentist|mechanic|waiter|carpenter|photographer|librarian|electrician|manager|musician
weather: sunny|cloudy|rainy|windy|foggy|cold|warm|stormy|mild|freezing|humid|snowy
mood: happy|tired|hungry|nervous|excited|bored|busy|proud|lonely|calm|worried|surprised
mood: sleepy|angry
street: Main|Oak|Pine|Maple|Cedar|Elm|Park|Lake|Hill|Church|Mill|River|Spring|Walnut|Chestnut
street: Union
act: call the office|send the report|pay the bill|walk the dog|water the plants|buy some bread
act: charge the phone|clean the kitchen|book a table|check the oven|lock the door
act: take out the trash|pick up the kids|return the books|fix the window|wash the car|feed the cat
act: print the tickets|renew my passport|call my mother|write a letter|go for a walk
act: change the password|reset the router|make dinner|do the laundry
app: music|alarm|calendar|radio|camera|map|timer|weather|notes|contacts|settings
thing: keys|wallet|glasses|ticket|passport|gloves|notebook|umbrella|phone|bag|hat|scarf|book
thing: charger|map|coat|watch|letter|sandwich|receipt
when: today|tomorrow|tonight|this morning|this afternoon|this evening|next week|on the weekend
when: after lunch|before dinner|at noon|at midnight|right now|later|as soon as possible
when: in a few minutes|every day|once a week
soon: today|tomorrow|next week|by the end of the day|shortly|within an hour|in a few days|this week
letter: A|B|C|D|E|F|G|H|K|L|M|N|P|Q|R|S|T|U|V|W|X|Y|Z
one: zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen
one: fifteen|sixteen|seventeen|eighteen|nineteen
ten: twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety
nth: first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth
nth: thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth
nth: twenty-first|twenty-second|twenty-third|twenty-fourth|twenty-fifth|twenty-sixth|twenty-
nth: seventh|twenty-eighth|twenty-ninth|thirtieth|thirty-first
past: half past|a quarter past|a quarter to|ten past|twenty to
"""


def word_lists(block: str) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for line in block.strip().splitlines():
        slot, words = line.split(": ", 1)
        lists.setdefault(slot, []).extend(words.split("|"))
    return lists


SLOTS = word_lists(WORDS)
PATTERNS = [line for block in (ASSISTANT, TALK) for line in block.strip().splitlines()]
