"""The tables of docs/evidence.md: what is trained and tested for them, how it is run, and how it is read."""
