"""Where the work on shards is done: in this process, or as tasks on a Ray cluster. Nothing here knows what the work is.

A pure function is mapped over shards (`shards.py` is the seam, `ray_tasks.py` the cluster). Results come in the order
of the shards, so what is summed over them is summed in the same order everywhere, and gives the same bytes.
"""
