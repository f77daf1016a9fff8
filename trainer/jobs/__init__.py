"""Jobs: what needs torch, run by `trainer.environments.run_job` with the interpreter of another environment.

A job module ends with `if __name__ == "__main__": sys.exit(protocol.main(Spec, run))`. It may import `policies` and
`trainer`, never `router`, and nothing that only the gateway's environment has.
"""
