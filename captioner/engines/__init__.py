"""Who answers: vLLM in this process, a server, what came with the data, or a stand-in."""
