"""What does a kops document mean?

Pure: documents and facts in, documents and findings out; no network, no clock, no store. `document.py` reads what an
author wrote, `schema.py` knows the types, `conversion.py` turns the API versions into one internal form, `rules.py`
runs the rules of `inference/` over it, `validation/` says what is wrong with it, `writer.py` writes it as kops does.
"""
