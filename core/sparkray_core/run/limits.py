"""Limits of a driver's or worker's own half. (The models' are beside the models.)"""

INLINE_BYTES = 100 * 1024  # up to here values travel in messages: Ray's limit too, and one copy costs 20 us at most
