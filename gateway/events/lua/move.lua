-- Store the result of an attempt: the delivery is due again, or ends. Or make an ended delivery due again, or drop one.
-- KEYS[1], [2]  endpoints by when they are next due: sorted set; when the hold of an endpoint ends: hash
-- KEYS[3..5]    of one endpoint: pending deliveries by when they are due: sorted set; deliveries: hash; the latest that
--               ended, by when: sorted set
-- ARGV[1]       msgpack: endpoint, id, text ("" drops the delivery), from ("pending" or "ended"; "": anywhere),
--               delay_ms until it is due (-1: it ends), hold_ms in which the endpoint gets nothing, ended_max, kept_s
-- Returns       1; 0 if the delivery is not where it was: nothing is written
-- TTL           kept_s; entries of KEYS[1] end with their deliveries
-- Clock         the server's
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + time[2] / 1000  -- with fractions, which keep events of one millisecond in order
local args = cmsgpack.unpack(ARGV[1])
local pending, deliveries, ended = KEYS[3], KEYS[4], KEYS[5]
redis.call('ZCARD', KEYS[1])
local held_ms = tonumber(redis.call('HGET', KEYS[2], args.endpoint) or 0)
local is_pending, is_ended = redis.call('ZSCORE', pending, args.id), redis.call('ZSCORE', ended, args.id)
if args.from ~= '' and not (args.from == 'pending' and is_pending or args.from == 'ended' and is_ended) then return 0 end
if args.text ~= '' and redis.call('HEXISTS', deliveries, args.id) == 0 then return 0 end

if args.text == '' then
  redis.call('HDEL', deliveries, args.id)
  redis.call('ZREM', pending, args.id)
  redis.call('ZREM', ended, args.id)
elseif args.delay_ms >= 0 then
  redis.call('HSET', deliveries, args.id, args.text)
  redis.call('ZREM', ended, args.id)
  redis.call('ZADD', pending, now_ms + args.delay_ms, args.id)
else
  redis.call('HSET', deliveries, args.id, args.text)
  redis.call('ZREM', pending, args.id)
  redis.call('ZADD', ended, now_ms, args.id)
  while redis.call('ZCARD', ended) > args.ended_max do
    redis.call('HDEL', deliveries, redis.call('ZPOPMIN', ended)[1])
  end
end
if args.hold_ms > 0 then
  held_ms = math.max(held_ms, now_ms + args.hold_ms)
  redis.call('HSET', KEYS[2], args.endpoint, held_ms)
  redis.call('EXPIRE', KEYS[2], args.kept_s)
elseif held_ms <= now_ms then
  redis.call('HDEL', KEYS[2], args.endpoint)
end
local first = redis.call('ZRANGE', pending, 0, 0, 'WITHSCORES')
if first[1] then
  redis.call('ZADD', KEYS[1], math.max(tonumber(first[2]), held_ms), args.endpoint)
else
  redis.call('ZREM', KEYS[1], args.endpoint)
end
for at = 3, 5 do redis.call('EXPIRE', KEYS[at], args.kept_s) end
return 1
