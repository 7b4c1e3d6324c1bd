import sys
from pathlib import Path

# the modules beside this file are shared by its tests; --import-mode=importlib adds no path of its own
sys.path.insert(0, str(Path(__file__).parent))
