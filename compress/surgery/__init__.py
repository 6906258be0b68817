"""Surgery: what is coupled, what matters, how wide, how to cut, and the proof. Pure functions on plain modules.

find -> groups -> importance -> widths (priced by cost) -> cut -> verify; `prune` does it all, plan describes it.
What is coupled, `encoders` says of transformers and `trace` finds out of everything else. Nothing here knows stages,
training or data. Importing this package is free; import the modules.
"""
