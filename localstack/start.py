"""Start LocalStack with Kinesis and DynamoDB, without containers: `python localstack/start.py`."""

import sys
from pathlib import Path

# Not `python -m localstack`: a package of that name would hide LocalStack's own.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emulators.localstack import main

if __name__ == "__main__":
    sys.exit(main())
