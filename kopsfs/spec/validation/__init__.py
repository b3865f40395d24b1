"""What would kops refuse in these documents, and what is wrong that kops cannot see?

Read `rule.py` (what a rule is), then `stages.py` (which rules run when). Each other module holds the rules of one subject;
`structure.py` needs no kops at all, `tree.py` looks at a whole state store.
"""
