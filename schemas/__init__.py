"""The wire, as pydantic models: no HTTP framework, no engine."""
