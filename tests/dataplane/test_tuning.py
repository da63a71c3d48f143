"""What the tuning measures, it measures with real frames, and leaves nothing behind."""

from forwarder.tuning import kernel_wire, memif_loop
from forwarder.tuning.sweep import Sweep, Tuned


async def test_frames_circle_between_two_data_planes():
    setting = memif_loop.Setting(workers=2, log2_ring_slots=8)
    assert await memif_loop.frames_per_s(setting, 64) > 0


async def test_tcp_and_pings_go_over_a_kernel_vwire_of_its_own():
    async with kernel_wire.pods() as pods:
        for window_s in (0.0, 50e-6):
            found = await pods.measure(cpus=(), poll_window_s=window_s)
            assert found.gbps > 0
            assert found.ping_us > 0


async def test_a_sweep_says_each_trial_and_chooses_every_knob_it_tries(monkeypatch):
    monkeypatch.setattr("forwarder.tuning.sweep.RINGS", (8, 9))
    monkeypatch.setattr("forwarder.tuning.sweep.WINDOWS_S", (0.0, 20e-6))
    monkeypatch.setattr("forwarder.tuning.sweep.HICCUP_S", 0.1)
    sweep = Sweep(rounds=1)
    told = [each async for each in sweep.run()]
    assert len([each for each in told if not isinstance(each, Tuned)]) == sweep.steps
    chosen = {each.knob for each in told if isinstance(each, Tuned)}
    assert chosen == {"stall_limit", "memif_ring_slots", "workers", "worker_cpus", "poll_window"}
    assert sweep.profile.memif_ring_slots in (256, 512)
    assert sweep.profile.poll_window_s in (0.0, 20e-6)
    assert 0.02 <= sweep.profile.stall_limit_s <= 0.1
