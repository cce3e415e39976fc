-- Count a request against its tenant's and key's concurrency while it has no reservation: as its body arrives, and while
-- its response is sent.
-- KEYS[1]  the tenant's record, KEYS[2] its API keys, KEYS[3], KEYS[4] open reservations of the tenant, of the key: see
--          admit.lua
-- KEYS[5], KEYS[6]  transfers of the tenant, of the key: sorted set, ID -> expiry (Unix ms)
-- ARGV[1], ARGV[2]  ID, key ID
-- ARGV[3]  lease, milliseconds; 0 ends the transfer
-- ARGV[4]  1: only if the limits allow one more
-- Returns  JSON: decision "admitted", "unknown" (no such key) or "rate" with the fields of admit.lua
-- TTL      two leases
-- Clock    the server's
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local UNSWEPT_MS = 900 * 1000 -- as in admit.lua
local id, lease_ms = ARGV[1], tonumber(ARGV[3])

local function refusal(name, limits, open, transfers)
  redis.call('ZREMRANGEBYSCORE', transfers, '-inf', now_ms)
  local function count(set) return redis.call('ZCOUNT', set, '(' .. (now_ms - UNSWEPT_MS), '+inf') end
  local lines = count((string.gsub(open, 'open$', 'batch_open')))
  local running = count(open) - lines + redis.call('ZCARD', transfers)
  if not limits.concurrency or running < limits.concurrency or redis.call('ZSCORE', transfers, id) then return nil end
  return cjson.encode({
    decision = 'rate', scope = name, limit = 'concurrency', allowed = limits.concurrency, taken = running, asked = 1,
    frees_at_s = 0, now_s = tonumber(time[1]), is_permanent = limits.concurrency < 1,
  })
end

if ARGV[4] == '1' then
  local record, limits = redis.call('HGET', KEYS[2], ARGV[2]), redis.call('HGET', KEYS[1], 'limits')
  if not record then return cjson.encode({decision = 'unknown'}) end
  local refused = refusal('tenant', limits and limits ~= '' and cjson.decode(limits) or {}, KEYS[3], KEYS[5])
    or refusal('key', cjson.decode(record).limits or {}, KEYS[4], KEYS[6])
  if refused then return refused end
end
for _, transfers in ipairs({KEYS[5], KEYS[6]}) do
  if lease_ms > 0 then
    redis.call('ZADD', transfers, now_ms + lease_ms, id)
    redis.call('PEXPIRE', transfers, 2 * lease_ms)
  else
    redis.call('ZREM', transfers, id)
  end
end
return cjson.encode({decision = 'admitted'})
