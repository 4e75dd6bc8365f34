"""What is left out of the log, and what is not."""

import warnings

from mmsema.engine import ignore_known_warnings


def test_escape_sequences_of_the_hosts_are_left_out_and_a_users_are_not():
    """As Python 3.12 and later warn of them when they compile a file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignore_known_warnings()
        for path in ("/env/lib/python3.13/site-packages/mmdet/models/necks/fpn.py", "/home/me/mmdet/my_config.py"):
            warnings.warn_explicit("invalid escape sequence '\\d'", SyntaxWarning, path, 1)
    assert [warning.filename for warning in caught] == ["/home/me/mmdet/my_config.py"]
