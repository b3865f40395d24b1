"""What does a field mean that the author left out?

One module per component of kops; each declares its rules (`kopsfs.spec.rules.Rule`) with the fields they write and the kops
source they follow.
"""
