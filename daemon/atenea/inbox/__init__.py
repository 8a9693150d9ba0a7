"""The inbox: which names are jobs, which of them are settled, what wakes the scan, and how a job is taken.

From outside in: `hints` wakes, `scan` finds what has settled, `taking` moves it into the state folder and the ledger.
All of it is synchronous, and but for the callback of `hints` it runs in one thread at a time.
"""
