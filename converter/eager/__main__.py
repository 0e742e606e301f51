"""Print the folder to put on PYTHONPATH, so that the environment switches take effect."""

from converter.eager.environment import STARTUP_FOLDER

if __name__ == "__main__":
    print(STARTUP_FOLDER)
