import threading

from live_parts import wait_until

from sonodetr.stream.channel import Channel


def test_the_newest_wins():
    channel = Channel[int](2, newest_wins=True)
    assert [channel.put(number) for number in (2, 3, 5, 7)] == [0, 0, 1, 1]
    channel.close()
    assert list(channel) == [5, 7]


def test_a_full_one_is_waited_for():
    channel = Channel[int](2, newest_wins=False)
    lost, taken = [], []
    giver = threading.Thread(target=lambda: [lost.append(channel.put(n)) for n in range(11)])
    giver.start()
    wait_until(lambda: len(lost) == 2)
    taker = threading.Thread(target=lambda: taken.extend(channel))
    taker.start()
    giver.join(10)
    channel.close()
    taker.join(10)
    assert taken == list(range(11))
    assert lost == [0] * 11


def test_whoever_waits_is_sent_on_when_nobody_takes_any_more():
    channel = Channel[int](1, newest_wins=False)
    lost = [channel.put(1)]
    giver = threading.Thread(target=lambda: lost.append(channel.put(2)))
    giver.start()
    assert channel.abandon() == 1
    giver.join(10)
    assert lost == [0, 1]
    assert channel.put(3) == 1
    assert list(channel) == []


def test_nothing_is_lost_without_being_counted():
    channel = Channel[int](3, newest_wins=True)
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.extend(channel))
    taker.start()
    lost = sum(channel.put(number) for number in range(10_007))
    channel.close()
    taker.join(10)
    assert len(taken) + lost == 10_007
    assert taken == sorted(taken)
    assert taken[-1] == 10_006
