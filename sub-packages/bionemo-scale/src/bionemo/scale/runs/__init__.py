"""The runs room writes training runs, reads them without running what they hold, exports and imports them."""
