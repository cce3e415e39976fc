-- Create, change or delete an endpoint, or disable or enable it, unless it changed since it was read, with its audit
-- entry.
-- KEYS[1..3]  endpoints: hash ID -> JSON; their audit log: stream; why and since when this one is disabled: string
-- ARGV[1]     msgpack: id, before and after ("" is absent), disabled (text, "" to enable it, absent: unchanged),
--             endpoints_max, audit_s, entry: flat list of the fields of the audit entry (empty: not audited)
-- Returns     1, 0 if the endpoint has changed since it was read, -1 if there are endpoints_max already
-- TTL         none; the audit log drops entries older than audit_s. Clock: the server's
local args = cmsgpack.unpack(ARGV[1])
local stored = redis.call('HGET', KEYS[1], args.id) or ''
redis.call('XLEN', KEYS[2])
redis.call('STRLEN', KEYS[3])
if stored ~= args.before then return 0 end
if stored == '' and args.after ~= '' and redis.call('HLEN', KEYS[1]) >= args.endpoints_max then return -1 end
if args.after == '' then
  redis.call('HDEL', KEYS[1], args.id)
else
  redis.call('HSET', KEYS[1], args.id, args.after)
end
if args.disabled == '' then
  redis.call('DEL', KEYS[3])
elseif args.disabled then
  redis.call('SET', KEYS[3], args.disabled)
end
if #args.entry > 0 then
  local oldest_ms = math.max(0, tonumber(redis.call('TIME')[1]) - args.audit_s) * 1000
  redis.call('XADD', KEYS[2], 'MINID', '~', string.format('%.0f', oldest_ms), '*', unpack(args.entry))
end
return 1
