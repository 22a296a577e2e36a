"""The `tallygate` command."""
