"""How the terminal counts and names things."""

from orchestrator.terminal.words import nodes_in_words


def test_resources_in_words() -> None:
    assert nodes_in_words([{"CPU": 2.0}]) == "1 node with 2 CPU"
    assert nodes_in_words([{"CPU": 4.0, "GPU": 1.0}] * 2) == "2 nodes with 8 CPU, 2 GPU"
    assert nodes_in_words([{"GPU": 0.0}]) == "1 node with no CPU"
