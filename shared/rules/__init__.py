"""Every type of rule in one place: its words in directory.yaml, their limits, its judgement of answers, and why.

A new type is one class in one of these files, and its name in `conditions.Condition`. All is pure. It lives with the
directory, because `check` refuses a rule that could never fire by the same words.
"""
