import os
import signal

import pytest

from trivium.train import guard
from trivium.train.guard import EXIT_RESUME, Guard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_flag_and_the_second_ends_the_process(number, monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(guard.os, "_exit", codes.append)
    before = signal.getsignal(number)
    with Guard() as stop, stop.holding():
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert codes == []
        assert "the step is finished and saved first" in capfd.readouterr().err
        os.kill(os.getpid(), number)
        assert codes == [128 + number]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_to_save_the_first_signal_leaves_with_the_code_to_resume(number, capfd):
    before = signal.getsignal(number)
    with Guard() as stop:
        with stop.holding():
            pass
        with pytest.raises(SystemExit) as left:
            signal.raise_signal(number)
    assert left.value.code == EXIT_RESUME
    assert "goes on from here" in capfd.readouterr().err
    assert signal.getsignal(number) is before


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_lets_ctrl_c_pass_but_can_be_terminated():
    with Guard() as stop:
        process = os.fork()
        if process == 0:
            os.kill(os.getpid(), signal.SIGINT)
            if not stop():
                os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + signal.SIGTERM
        assert not stop()
