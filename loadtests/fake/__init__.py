"""The parts of the fake backend; `loadtests.fake_backend` is the way in."""
