"""Training: `train(config, run_dir, device)` makes or continues a run.

`start` is what a run needs, `state` what a step changes, `steps` what it sees and does, `loop`
when.
"""
