"""The extension field `normalize`: how much of a text is put into words before it is spoken.

`true` (everything, the default), `false` (nothing), or an object that switches single kinds off. A misspelt switch is
an error: it would be heard too late.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from schemas.absence import optional_takes_null

Switch = Annotated[bool, Field(strict=True)]


class NormalizeSwitches(BaseModel):
    """The kinds by name, each on unless it is switched off."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=optional_takes_null)

    markdown: Switch = Field(default=True, description="marks of headings, lists, links, tables, and HTML entities go")
    tags: Switch = Field(default=True, description="tags go, emotions like <laugh> excepted")
    emoji: Switch = Field(default=True, description="emoji and smileys go")
    emails: Switch = Field(default=True, description="bob@example.com: bob at example dot com")
    urls: Switch = Field(default=True, description="https://example.com/a: example dot com slash a")
    phones: Switch = Field(default=True, description="555-0199: five five five, zero one nine nine")
    dates: Switch = Field(default=True, description="2026-11-22: November twenty-second, twenty twenty-six")
    times: Switch = Field(default=True, description="3:05pm: three oh five P M")
    currency: Switch = Field(default=True, description="$5.20: five dollars and twenty cents")
    units: Switch = Field(default=True, description="5 km/h: 5 kilometers per hour")
    abbreviations: Switch = Field(default=True, description="Dr. Lee: Doctor Lee")
    symbols: Switch = Field(default=True, description="R&D: R and D")
    numbers: Switch = Field(default=True, description="1,024: one thousand twenty-four")


def _switches(value: Any) -> Any:
    """`true` and `false` as switches; a `null` inside of the object is absence, too."""
    if isinstance(value, bool):
        return dict.fromkeys(NormalizeSwitches.model_fields, value)
    if isinstance(value, dict):
        if unknown := [name for name in value if name not in NormalizeSwitches.model_fields]:
            raise ValueError(
                f"unknown switch {str(unknown[0])[:40]!r}; known: {', '.join(NormalizeSwitches.model_fields)}"
            )
        return {name: switch for name, switch in value.items() if switch is not None}
    if isinstance(value, NormalizeSwitches):
        return value
    raise ValueError("must be true, false or an object of switches")


Normalize = Annotated[NormalizeSwitches, BeforeValidator(_switches, json_schema_input_type=bool | NormalizeSwitches)]
