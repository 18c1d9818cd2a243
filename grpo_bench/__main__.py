"""`python -m grpo_bench`: the command line of the interpreter at hand, wherever its scripts are."""

from grpo_bench.cli import main, program
from grpo_bench.executors.process import end_with_parent

if __name__ == "__main__":
    if end_with_parent():
        program()  # the executor sees how it ends
    main()
