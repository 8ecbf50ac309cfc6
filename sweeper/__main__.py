"""`python -m sweeper`."""

import sys

from sweeper.cli.main import main

sys.exit(main())
