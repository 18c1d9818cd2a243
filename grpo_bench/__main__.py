"""`python -m grpo_bench`: the command line of the interpreter at hand, wherever its scripts are."""

from grpo_bench.cli import main

if __name__ == "__main__":
    main()
