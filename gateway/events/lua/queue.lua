-- Queue the deliveries of one event, unless it was queued before.
-- KEYS[1..3]  events that were queued by time: sorted set; endpoints by when they are next due: sorted set; when the
--             hold of an endpoint ends: hash
-- KEYS[4..]   pairs: an endpoint's pending deliveries by when they are due: sorted set; its deliveries: hash
-- ARGV[1]     msgpack: event_id, deliveries: [{endpoint, id, text}] in the order of KEYS, pending_max of an endpoint,
--             known_s and known_max of KEYS[1], kept_s
-- Returns     JSON: is_new, dropped: [endpoint of each pending delivery that had to make room]
-- TTL         known_s of KEYS[1], kept_s of the endpoints' keys; entries of KEYS[2] end with their deliveries
-- Clock       the server's
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000  -- with fractions, which keep events of one millisecond in order
local args = cmsgpack.unpack(ARGV[1])
local is_known = redis.call('ZSCORE', KEYS[1], args.event_id)
redis.call('ZCARD', KEYS[2])
for at = 1, #args.deliveries do
  redis.call('HLEN', KEYS[3 + 2 * at])
  args.deliveries[at].pending = redis.call('ZCARD', KEYS[2 + 2 * at])
  args.deliveries[at].held_ms = tonumber(redis.call('HGET', KEYS[3], args.deliveries[at].endpoint) or 0)
end
if is_known then return cjson.encode({is_new = false}) end

redis.call('ZADD', KEYS[1], now_ms, args.event_id)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - args.known_s * 1000)
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - args.known_max)
redis.call('EXPIRE', KEYS[1], args.known_s)
local dropped = {}
for at, delivery in ipairs(args.deliveries) do
  local queue, deliveries = KEYS[2 + 2 * at], KEYS[3 + 2 * at]
  if delivery.pending >= args.pending_max then
    redis.call('HDEL', deliveries, redis.call('ZPOPMIN', queue)[1])
    dropped[#dropped + 1] = delivery.endpoint
  end
  redis.call('HSET', deliveries, delivery.id, delivery.text)
  redis.call('ZADD', queue, now_ms, delivery.id)
  redis.call('ZADD', KEYS[2], 'LT', math.max(now_ms, delivery.held_ms), delivery.endpoint)
  redis.call('EXPIRE', queue, args.kept_s)
  redis.call('EXPIRE', deliveries, args.kept_s)
end
return cjson.encode({is_new = true, dropped = dropped})
