"""What every test runs under."""

import os

# Tiny tensors gain nothing from threads, and threads that wait for each other
# on a busy machine cost a lot. Set before torch is imported; scripts run by the
# tests inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# nothing is downloaded in tests
os.environ.setdefault("HF_HUB_OFFLINE", "1")
