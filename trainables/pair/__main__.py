"""`python -m trainables.pair`."""

import sys

from trainables.pair.run import main

if __name__ == "__main__":
    sys.exit(main())
