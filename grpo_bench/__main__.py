"""`python -m grpo_bench`: the command line of the interpreter at hand, wherever its scripts are."""

from grpo_bench.cli import main
from grpo_bench.executors.process import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    main()
