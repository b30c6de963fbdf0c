# SPDX-License-Identifier: Apache-2.0
# Runs the program on descriptor 9 as a script of its own.
import sys

sys.argv = ["solution.py"]
with open(9, "rb") as solution:
    solution = compile(solution.read(), "solution.py", "exec")
exec(solution, globals())
