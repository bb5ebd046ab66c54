"""The benchmark: the gateway against a bare mitmdump, in one run on one machine.

`upstream` is the canned Ollama both of them talk to, `client` the load generator, `processes` starts and
ends what is measured, `measures` has one function per question, `table` says what the goals are and prints.
The machines this runs on are noisy, so only ratios taken within one run mean anything: every measure goes
round all targets in turn, many times, and the medians of the rounds are reported.
"""
