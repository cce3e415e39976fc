-- Settle a reservation: charge its outcome, refund the difference, write the ledger. The only script that does so, for a
-- request that ended and for one whose process died. The request itself is not refunded: it counts in its minute
-- whatever its outcome. A request that was never sent gets no record, only a count in the sums of its day.
-- KEYS[1]  the reservation, KEYS[2] open reservations of the tenant: see admit.lua
--          Of the same hash tag, named by the reservation's fields (BASE is KEYS[2] without "open"): the counters that
--          admit.lua reserved from; BASE .. "ledger:YYYYMMDD", "sums:YYYYMMDD", "days", "records_end" and "recent": see
--          redis/__init__.py
-- ARGV[1]  reservation ID
-- ARGV[2]  1: only if it has expired, by the reservation's own fields: sent images are unconfirmed
-- ARGV[3]  1: withheld images are charged
-- ARGV[4]  1: unconfirmed images are charged
-- ARGV[5]  retention of the ledger's records, days
-- ARGV[6]  outcome, ARGV[7] 1: something reached an upstream; for ARGV[2] = 0 only, as are the following
-- ARGV[8]  calls: "UPSTREAM/ACCOUNT:delivered,withheld,lost,unconfirmed" joined by ";"
-- ARGV[9], ARGV[10], ARGV[11]  milliseconds queued, upstream, total; ARGV[12] key ID
-- Returns  JSON: status "settled", "corrected" (settled before; only the difference moved), "repeated" (settled before by
--          the same call, whose reply was lost), "same" (settled before, by another process), "alive" (ARGV[2] = 1 and not
--          expired) or "gone" (no such reservation); with the first three also outcome, model and usd_micros (the charge,
--          or the difference)
-- TTL      the settled reservation 15 minutes, for corrections; 7 days if settled by expiry, for journal replays. That of a
--          request that was never sent is deleted, unless it was settled by expiry. All records of a day expire together,
--          at the stored time: ARGV[5] days after their day, later if a later settlement says so, never after it passed
-- Clock    the server's; everything belongs to the second, day and month in which the request was admitted
local SETTLED_KEPT_S, EXPIRED_KEPT_S = 900, 7 * 86400
local RECENT_S, RECENT_SLICE_S = SETTLED_KEPT_S, 300

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local base = string.sub(KEYS[2], 1, -5)
local id = ARGV[1]
local by_expiry = ARGV[2] == '1'

if by_expiry then
  local expiry_ms = redis.call('ZSCORE', KEYS[2], id)
  if expiry_ms and tonumber(expiry_ms) > now_ms then return cjson.encode({status = 'alive'}) end
end

local reservation = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do reservation[fields[i]] = fields[i + 1] end
if not reservation.model then
  redis.call('ZREM', KEYS[2], id)
  if ARGV[12] then redis.call('ZREM', base .. 'key:' .. ARGV[12] .. ':open', id) end
  return cjson.encode({status = 'gone'})
end
local function number(name) return tonumber(reservation[name] or 0) end
-- The share of the reserved cost for some of its images.
local function cost_of(images) return math.floor(images * number('cost') / number('images')) end
local key_base = base .. 'key:' .. reservation.key_id .. ':'

-- The outcome by the reservation's own fields, after its process died: never more than was reserved, even if a free order
-- could not be reverted in time. A reverted order may have reached its account, as a request of its minute.
local function of_the_dead()
  local accounts, calls, sent = {}, {}, 0
  for name in pairs(reservation) do table.insert(accounts, string.match(name, '^sent:(.+)$')) end
  table.sort(accounts)
  for _, account in ipairs(accounts) do
    local images = math.min(number('sent:' .. account), number('images') - sent)
    if images > 0 then
      table.insert(calls, account .. ':0,0,0,' .. images)
      sent = sent + images
    end
  end
  if #accounts == 0 then return 'not_sent', '0', '' end
  return sent > 0 and 'unconfirmed' or 'refused', '1', table.concat(calls, ';')
end

local sums, ledger = base .. 'sums:' .. reservation.day, base .. 'ledger:' .. reservation.day

-- Reads every key before the first write: an error (wrong key type, a migrating slot) would not roll back earlier writes,
-- and the settlement is repeated.
local windows, rates = {}, {}
for _, scope in ipairs({base, key_base}) do
  for _, window in ipairs({scope .. 'day:' .. reservation.day, scope .. 'month:' .. reservation.month}) do
    if redis.call('HLEN', window) > 0 then table.insert(windows, window) end
  end
  rates[scope .. 'rate'] = redis.call('HGET', scope .. 'rate', reservation.second)
  redis.call('ZCARD', scope .. 'open')
end
redis.call('HLEN', sums)
redis.call('XLEN', ledger)
redis.call('ZCARD', base .. 'days')
local recent = redis.call('HKEYS', base .. 'recent')
local records_end_s = tonumber(redis.call('HGET', base .. 'records_end', reservation.day))

local outcome, was_sent, calls = ARGV[6], ARGV[7], ARGV[8]
local queue_ms, upstream_ms, total_ms = ARGV[9], ARGV[10], ARGV[11]
if by_expiry then
  outcome, was_sent, calls = of_the_dead()
  queue_ms, upstream_ms, total_ms = '', '', tostring(now_ms - number('admitted_ms'))
end

-- An existing record remains: an export may have returned it.
local is_recorded = was_sent == '1' or reservation.entry
local new = {requests = 1, asked = number('images'), delivered = 0, withheld = 0, lost = 0, unconfirmed = 0, not_sent = 0}
if not is_recorded then new.requests, new.asked, new.not_sent = 0, 0, 1 end
for delivered, withheld, lost, unconfirmed in string.gmatch(calls, ':(%d+),(%d+),(%d+),(%d+)') do
  new.delivered, new.withheld = new.delivered + delivered, new.withheld + withheld
  new.lost, new.unconfirmed = new.lost + lost, new.unconfirmed + unconfirmed
end
local charged = new.delivered
if ARGV[3] == '1' then charged = charged + new.withheld end
if ARGV[4] == '1' then charged = charged + new.unconfirmed end
new.usd_micros = cost_of(charged)

local before = {
  requests = 0, asked = 0, delivered = 0, withheld = 0, lost = 0, unconfirmed = 0, not_sent = 0, usd_micros = 0 }
local taken = {images = number('images'), usd_micros = number('cost')}
if reservation.settled then
  if by_expiry or (reservation.outcome == outcome and reservation.calls == calls) then
    local is_own = reservation.settled == 'by itself' and not by_expiry
    return cjson.encode({
      status = is_own and 'repeated' or 'same', outcome = outcome, model = reservation.model, usd_micros = new.usd_micros })
  end
  for name in pairs(before) do before[name] = number('settled:' .. name) end
  taken = {images = number('settled:charged'), usd_micros = before.usd_micros}
end

-- The difference between reserved and charged amounts, in every window that still exists.
local images, usd_micros = charged - taken.images, new.usd_micros - taken.usd_micros
for _, window in ipairs(windows) do
  redis.call('HINCRBY', window, 'images', images)
  redis.call('HINCRBY', window, 'usd_micros', usd_micros)
end
for name, rate in pairs(rates) do
  if rate then
    local admitted, made = string.match(rate, '(%-?%d+) (%-?%d+)')
    -- Never below zero: after the clock was set back the second may be a repeated one.
    redis.call('HSET', name, reservation.second, admitted .. ' ' .. math.max(0, made + images))
  end
end
for _, scope in ipairs({base, key_base}) do redis.call('ZREM', scope .. 'open', id) end

for name, value in pairs(new) do
  if value ~= before[name] then
    redis.call('HINCRBY', sums, reservation.key_id .. '|' .. name .. '|' .. reservation.model, value - before[name])
  end
end
redis.call('ZADD', base .. 'days', reservation.day, reservation.day)

local function write_record()
  local record = {'reservation', id, 'admitted_ms', reservation.admitted_ms,
    'request_id', reservation.request_id, 'key_id', reservation.key_id, 'model', reservation.model, 'asked', new.asked,
    'delivered', new.delivered, 'withheld', new.withheld, 'lost', new.lost, 'unconfirmed', new.unconfirmed,
    'price_usd_micros', cost_of(1), 'usd_micros', new.usd_micros, 'outcome', outcome, 'calls', calls,
    'queue_ms', queue_ms, 'upstream_ms', upstream_ms, 'total_ms', total_ms}
  local corrects = reservation.entry and (reservation.corrects and reservation.corrects .. ' ' or '') .. reservation.entry
  if corrects then
    redis.call('XDEL', ledger, reservation.entry)
    redis.call('HSET', KEYS[1], 'corrects', corrects)
    table.insert(record, 'corrects')
    table.insert(record, corrects)
  end
  redis.call('HSET', KEYS[1], 'entry', redis.call('XADD', ledger, '*', unpack(record)))
  local day_ends_s = (math.floor(number('admitted_ms') / 86400000) + 1) * 86400
  local wanted_end_s = day_ends_s + tonumber(ARGV[5]) * 86400
  if not records_end_s or (records_end_s < wanted_end_s and records_end_s * 1000 > now_ms) then
    records_end_s = wanted_end_s
    redis.call('HSET', base .. 'records_end', reservation.day, records_end_s)
  end
  redis.call('EXPIREAT', ledger, records_end_s)
end

-- Counts it among the tenant's settled reservations of the last 15 minutes, which admit.lua limits, in 5-minute buckets.
local function count_recent()
  local slice, stale = math.floor(now_ms / 1000 / RECENT_SLICE_S), {}
  for _, name in ipairs(recent) do
    if math.abs(tonumber(name) - slice) > RECENT_S / RECENT_SLICE_S then table.insert(stale, name) end
  end
  if #stale > 0 then redis.call('HDEL', base .. 'recent', unpack(stale)) end
  redis.call('HINCRBY', base .. 'recent', slice, 1)
  redis.call('EXPIRE', base .. 'recent', RECENT_S + RECENT_SLICE_S)
end

if is_recorded then write_record() end
if is_recorded or by_expiry then
  if not reservation.settled then count_recent() end
  local how = by_expiry and 'by expiry' or 'by itself'
  redis.call('HSET', KEYS[1], 'settled', how, 'outcome', outcome, 'calls', calls, 'settled:charged', charged,
    'settled:requests', new.requests, 'settled:asked', new.asked, 'settled:delivered', new.delivered,
    'settled:withheld', new.withheld, 'settled:lost', new.lost, 'settled:unconfirmed', new.unconfirmed,
    'settled:not_sent', new.not_sent, 'settled:usd_micros', new.usd_micros)
  redis.call('EXPIRE', KEYS[1], by_expiry and EXPIRED_KEPT_S or SETTLED_KEPT_S)
else
  redis.call('DEL', KEYS[1])
end
return cjson.encode({
  status = reservation.settled and 'corrected' or 'settled', outcome = outcome, model = reservation.model,
  usd_micros = new.usd_micros - before.usd_micros })
