// What is asked for: the fields, their choices from the server, and the request they make.

const TAGS = ["laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp"];
const OPENAI_VOICES = [
  "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
];
const OPENAI_MODEL = /^(tts-1|gpt-)/;
const MAX_INPUT = 4096;
const KEY = "lyre-key";

const $ = (id) => document.getElementById(id);

/** The fields; `onChange()` is called whenever the request they make changes. */
export class Form {
  constructor(onChange) {
    this.onChange = onChange;
    $("key").value = sessionStorage.getItem(KEY) ?? "";
    if (this.key) this.showKey(true);
    $("form").addEventListener("input", (event) => this.changed(event.target));
    $("speed").addEventListener("dblclick", () => this.resetSpeed());
    $("key-toggle").addEventListener("click", () => this.showKey($("key-field").hidden, true));
    $("tags").append(...TAGS.map((tag) => this.tagButton(tag)));
    this.count();
  }

  /** The body of the speech request. */
  get request() {
    const speed = this.speed;
    return {
      model: $("model").value,
      voice: $("voice").value,
      input: $("text").value,
      response_format: new FormData($("form")).get("format"),
      ...(speed === 1 ? {} : { speed }),
    };
  }

  get key() {
    return $("key").value.trim();
  }

  /** Why this cannot be sent, or null. */
  get problem() {
    if (!$("text").value.trim()) return "Type something to be said.";
    return null;
  }

  get speed() {
    // The slider is logarithmic: half and double speed are equally far from 1.
    return Math.round(2 ** Number($("speed").value) * 100) / 100;
  }

  /** Offer these voices and models, and OpenAI's names for them apart. */
  offer({ voices, models }) {
    const own = voices.filter((voice) => !OPENAI_VOICES.includes(voice));
    fill($("voice"), { "This model's": own, "OpenAI's names": OPENAI_VOICES });
    const [served, ...aliases] = models.map((card) => card.id);
    fill($("model"), {
      Served: [served],
      "OpenAI's names": aliases.filter((id) => OPENAI_MODEL.test(id)),
      "Other names": aliases.filter((id) => !OPENAI_MODEL.test(id)),
    });
    $("about").textContent = models[0].description;
    // The demo voice reads no tags; its cards say whose they are.
    $("tags").hidden = models[0].owned_by === "lyre-demo";
    this.onChange();
  }

  /** Show the field for a key, and go there. */
  askForKey() {
    this.showKey(true, true);
    $("key").select();
  }

  showKey(isShown, takesFocus = false) {
    $("key-field").hidden = !isShown;
    $("key-toggle").setAttribute("aria-expanded", String(isShown));
    if (isShown && takesFocus) $("key").focus();
  }

  changed(field) {
    if (field === $("key")) sessionStorage.setItem(KEY, this.key);
    if (field === $("text")) this.count();
    if (field === $("speed")) this.tellSpeed();
    this.onChange();
  }

  count() {
    // Code points, as the server counts them.
    const length = [...$("text").value].length;
    $("count").textContent = `${length.toLocaleString("en")} / ${MAX_INPUT.toLocaleString("en")}`;
    $("count").classList.toggle("over", length > MAX_INPUT);
  }

  tellSpeed() {
    $("speed-text").value = `${this.speed}×`;
    $("speed").setAttribute("aria-valuetext", `${this.speed} times`);
  }

  resetSpeed() {
    $("speed").value = 0;
    this.changed($("speed"));
  }

  tagButton(tag) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = tag;
    button.setAttribute("aria-label", `Insert <${tag}>`);
    button.addEventListener("click", () => this.insert(`<${tag}>`));
    return button;
  }

  insert(tag) {
    const text = $("text");
    const before = text.value.slice(0, text.selectionStart);
    const space = before && !/\s$/.test(before) ? " " : "";
    text.setRangeText(`${space}${tag} `, text.selectionStart, text.selectionEnd, "end");
    text.focus();
    this.changed(text);
  }
}

function fill(select, groups) {
  const chosen = select.value;
  select.replaceChildren(...Object.entries(groups).filter(([, names]) => names.length).map(group));
  select.disabled = false;
  if ([...select.options].some((option) => option.value === chosen)) select.value = chosen;
}

function group([label, names]) {
  const element = document.createElement("optgroup");
  element.label = label;
  element.append(...names.map((name) => new Option(name, name)));
  return element;
}
