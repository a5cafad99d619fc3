"""The week's GPU time, of which Kaggle gives about 30 hours."""

from kit.errors import KitError
from kit.remote.client import Kaggle, Refused


def gpu_time(kaggle: Kaggle) -> tuple[float, float] | None:
    """(used, allowed) hours of this week's GPU time; None where Kaggle does not say.

    Raises:
        Refused: the token is wrong.
    """
    from kagglesdk.kernels.types.kernels_api_service import ApiGetAcceleratorQuotaStatisticsRequest

    wanted = ApiGetAcceleratorQuotaStatisticsRequest()
    try:
        quota = kaggle.ask(lambda client: client.kernels.kernels_api_client.get_accelerator_quota_statistics(wanted)).gpu_quota
    except Refused as error:
        if error.code == 401:
            raise
        return None
    if quota is None or not quota.total_time_allowed:
        return None
    return (quota.time_used.total_seconds() if quota.time_used else 0.0) / 3600, quota.total_time_allowed.total_seconds() / 3600


def refuse_used_up(kaggle: Kaggle, tail: str) -> None:
    """A session without GPU time left would wait in Kaggle's queue, or run on a CPU.

    Args:
        tail: the end of the last session's log, which may say why a person should look before the next.
    Raises:
        KitError: the week's time is used up.
    """
    if (hours := gpu_time(kaggle)) is None:
        return
    used, allowed = hours
    if used >= allowed:
        raise KitError(
            f"The week's {allowed:.0f} GPU hours are used up. Start the chain again when Kaggle gives new ones."
            + (f" The last session's log ends:\n{tail}" if tail else "")
        )
    kaggle.say(f"GPU time: {used:.1f} of {allowed:.1f} h used")
