"""The same work as others would do it. Each module runs alone, with what its library needs and nothing of ours."""
