"""`python -m gateway`: the same as the `tallygate` command."""

import sys

from gateway.cli.main import main

sys.exit(main())
