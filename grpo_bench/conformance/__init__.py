"""`grpo-bench check`: what a method must satisfy, checked on closed forms and on the tiny model of the real family."""
