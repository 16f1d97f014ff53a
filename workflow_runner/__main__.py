"""``python -m workflow_runner``: the same as the command ``workflow-runner``."""

import sys

from workflow_runner.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
