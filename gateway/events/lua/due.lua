-- Find what is due: endpoints, or the first delivery of one of them.
-- KEYS[1]     endpoints, or pending deliveries of an endpoint, by when they are due: sorted set
-- KEYS[2..3]  of an endpoint: when the hold of each ends: hash; its deliveries: hash
-- ARGV[1]     msgpack: count, or endpoint
-- Returns     at most `count` endpoints; or the ID and the text of the first delivery ("" if it is lost), none if it is not
--             due or the endpoint is held
-- TTL         nothing is written. Clock: the server's
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000
local args = cmsgpack.unpack(ARGV[1])
if args.count then return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'LIMIT', 0, args.count) end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms, 'LIMIT', 0, 1)[1]
if not first or tonumber(redis.call('HGET', KEYS[2], args.endpoint) or 0) > now_ms then return {} end
return {first, redis.call('HGET', KEYS[3], first) or ''}
