import sys
from pathlib import Path

# The tests' own modules; each package has its own.
sys.path.insert(0, str(Path(__file__).parent))
