"""What the fuzzers share: how much they try, and values that nobody expects.

FUZZ_EXAMPLES=10000 tries more of everything, and other examples each time.
"""

import math
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BIG = [2**31 - 1, 2**31, 2**32, 2**63, 10**30, -1, 1e308, -1e-320]
ODD = st.one_of(
    st.sampled_from([*BIG, math.nan, math.inf, -math.inf, True, "", "\ud800", "\0", "a\nb"]),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.from_regex(r"[-+]?[0-9._:]{1,6}", fullmatch=True),
)
