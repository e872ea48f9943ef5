"""Every performance figure of this project comes from a script here."""
