"""A label is shown as text, whatever it is."""

from bionemo.screens.printable import printable


def test_control_characters_are_written_out_and_the_rest_is_left():
    assert printable("a\x1b[2J\r\n\x07b") == "a\\x1b[2J\\r\\n\\x07b"
    assert printable("β-catenin [/red] 100 µM\u00a0x") == "β-catenin [/red] 100 µM\u00a0x"
    assert printable("\u202eabc\ud800") == "\\u202eabc\\ud800"
