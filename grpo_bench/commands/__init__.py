"""The benchmark's commands, a file each: parse, call, print."""
