"""What several suites share: network namespaces, the leak check, frame makers, peers."""
