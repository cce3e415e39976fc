-- Settle a reservation: charge its outcome, refund the difference, write the ledger. The only script that does so, for a
-- request that ended and for one whose process died. The request itself is not refunded: it counts in its minute
-- whatever its outcome. A request that was never sent gets no record, only a count in the sums of its day.
-- KEYS[1]  the reservation, KEYS[2] open reservations of the tenant: see admit.lua
--          Of the same hash tag, named by the reservation's fields (BASE is KEYS[2] without "open"): the counters that
--          admit.lua reserved from; BASE .. "ledger:YYYYMMDD", "sums:YYYYMMDD", "batch_sums:YYYYMMDD", "days",
--          "records_end", "closed" and "recent": see redis/__init__.py; BASE .. "split_sums:YYYYMMDD": see split_sums.lua
-- ARGV[1]  JSON of the outcome, see ReservationOutcome: reservation (its ID), charges_withheld, charges_unconfirmed, and of
--          a request that ended settlement, was_sent, calls (as write_calls in ledger_keys.py renders them), price_basis (see
--          Basis in domain/pricing.py), tasks (IDs of those that it left unfinished), queue_ms, upstream_ms, total_ms and key_id. Without settlement it is settled only if
--          it has expired, by its own fields: sent images are unconfirmed. Or late, the outcome of a
--          task that ended after its request: task (its ID), account (UPSTREAM/ACCOUNT), images (of the task), and which of
--          them were delivered, withheld and lost; the others were free. They are moved from the unconfirmed, once a task,
--          unless the request itself knew the outcome.
--          Delivered ones cost their share of the reserved cost
-- ARGV[2]  retention of the ledger's records, days
-- ARGV[3]  JSON, ascending: the percentages of quotas and budgets at which an event is appended, see events.lua, unless the
--          tenant has its own; absent: none
-- ARGV[4], [5]  the present day, YYYYMMDD, and the Unix second at which it ends. If the month of the admission is closed,
--          sums and records of that month stay, and the difference is a correction: it is added to this day's sums, with a
--          record that has correction_of (the day of the admission), the differences as its amounts, and upstreams (JSON:
--          those of each upstream)
-- Writes   BASE .. "unknown:NAME" also, see repeats.lua, if the outcome is unknown and the reservation names its request
-- Returns  JSON: status "settled", "corrected" (settled before; only the difference moved), "repeated" (settled before by
--          the same call, whose reply was lost), "same" (settled before, by another process), "alive" (it has not expired,
--          or late came before its settlement) or "gone" (no such reservation); with the first three also outcome, model and usd_micros (the charge, or the
--          difference), and has_events if it appended events
-- TTL      the settled reservation 15 minutes, for corrections, or as long as its idempotency key (kept_s); 2 hours if
--          images are unconfirmed, for tasks that end late; 7 days if settled by expiry, for journal replays. That of a request that was never sent is deleted, unless it was settled
--          by expiry. All records of a day expire together, at the stored time: ARGV[2] days after their day, later if a
--          later settlement says so, never after it passed
-- Clock    the server's; everything else belongs to the second, day and month in which the request was admitted
local SETTLED_KEPT_S, UNCONFIRMED_KEPT_S, EXPIRED_KEPT_S = 900, 2 * 3600, 7 * 86400
local RECENT_S, RECENT_SLICE_S = SETTLED_KEPT_S, 300

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local base = string.sub(KEYS[2], 1, -5)
local ended = cjson.decode(ARGV[1])
local id, late = ended.reservation, ended.late
local by_expiry = not ended.settlement and not late

if by_expiry then
  local expiry_ms = redis.call('ZSCORE', KEYS[2], id)
  if expiry_ms and tonumber(expiry_ms) > now_ms then return cjson.encode({status = 'alive'}) end
end

local reservation = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do reservation[fields[i]] = fields[i + 1] end
if not reservation.model then
  for _, scope in ipairs({base, ended.key_id and base .. 'key:' .. ended.key_id .. ':'}) do
    for _, name in ipairs({'open', 'batch_open'}) do redis.call('ZREM', scope .. name, id) end
  end
  return cjson.encode({status = 'gone'})
end
local function number(name) return tonumber(reservation[name] or 0) end
-- The share of the reserved cost for some of its images.
local function cost_of(images) return math.floor(images * number('cost') / number('images')) end

-- Whether a task is in a list, joined by " ".
local function has_task(tasks, task) return string.find(' ' .. (tasks or '') .. ' ', ' ' .. task .. ' ', 1, true) end

-- The outcome with the truth about a task: its images are no longer unconfirmed.
local function correct(calls, truth)
  local corrected, sums = {}, {delivered = 0, withheld = 0, lost = 0, unconfirmed = 0}
  for account, delivered, withheld, lost, unconfirmed, rest in
      string.gmatch(calls, '([^;]+):(%d+),(%d+),(%d+),(%d+)([^;]*)') do
    local counts = {delivered = delivered, withheld = withheld, lost = lost, unconfirmed = unconfirmed}
    if account == truth.account then
      local left = math.min(truth.images, tonumber(unconfirmed))
      counts.unconfirmed = unconfirmed - left
      for _, name in ipairs({'delivered', 'withheld', 'lost'}) do
        local moved = math.min(left, truth[name])
        counts[name], left = counts[name] + moved, left - moved
      end
      local charge = string.match(rest, '^,(%d+)')
      local moved = counts.delivered - delivered
      if moved > 0 then rest = charge and ',' .. charge + cost_of(moved) or '' end  -- what the provider took is not known
    end
    for name in pairs(sums) do sums[name] = sums[name] + counts[name] end
    table.insert(corrected, string.format(
      '%s:%d,%d,%d,%d%s', account, counts.delivered, counts.withheld, counts.lost, counts.unconfirmed, rest))
  end
  ended.calls, ended.settlement = table.concat(corrected, ';'), 'refused'
  for _, name in ipairs({'withheld', 'lost', 'unconfirmed', 'delivered'}) do
    if sums[name] > 0 then ended.settlement = name end
  end
end
if late then
  if not reservation.settled then return cjson.encode({status = 'alive'}) end
  local is_known = reservation.settled == 'by itself' and not has_task(reservation.tasks, late.task)
  if is_known or reservation['late:' .. late.task] then return cjson.encode({status = 'same'}) end
  correct(reservation.calls, late)
  ended.was_sent = true
  for _, name in ipairs({'queue_ms', 'upstream_ms', 'total_ms', 'price_basis'}) do ended[name] = reservation[name] or '' end
elseif ended.settlement then
  for name, truth in pairs(reservation) do
    if string.match(name, '^late:') and has_task(ended.tasks, string.sub(name, 6)) then
      correct(ended.calls, cjson.decode(truth))
    end
  end
end
local scopes = {base, base .. 'key:' .. reservation.key_id .. ':'}
local is_correction = redis.call('HEXISTS', base .. 'closed', string.sub(reservation.day, 1, 6)) == 1
local sheet = is_correction and ARGV[4] or reservation.day
local sums, ledger, batch_sums = base .. 'sums:' .. sheet, base .. 'ledger:' .. sheet, base .. 'batch_sums:' .. sheet

-- Reads every key before the first write: an error (wrong key type, a migrating slot) would not roll back earlier writes,
-- and the settlement is repeated.
local tenant = redis.call('HMGET', base .. 'tenant', 'limits', 'about')
local key = redis.call('HGET', base .. 'keys', reservation.key_id)
local windows, rates = {}, {}
for i, scope in ipairs(scopes) do
  for _, period in ipairs({'day', 'month'}) do
    local name = scope .. period .. ':' .. reservation[period]
    if redis.call('HLEN', name) > 0 then
      table.insert(windows, {name = name, period = period, scope = i, ends_s = tonumber(reservation[period .. '_ends_s'])})
    end
  end
  if not reservation.batch_id then rates[scope .. 'rate'] = redis.call('HGET', scope .. 'rate', reservation.second) end
  redis.call('ZCARD', scope .. 'open')
end
for _, name in ipairs({sums, batch_sums}) do redis.call('HLEN', name) end
local split_sums = base .. 'split_sums:' .. sheet
local splits = read_splits(split_sums, reservation, is_correction)
redis.call('XLEN', ledger)
redis.call('ZCARD', base .. 'days')
redis.call('XLEN', base .. 'events')
local recent = redis.call('HKEYS', base .. 'recent')
local records_end_s = tonumber(redis.call('HGET', base .. 'records_end', sheet))

-- The outcome by the reservation's own fields, after its process died: never more than was reserved, even if a free order
-- could not be reverted in time. A reverted order may have reached its account, as a request of its minute.
if by_expiry then
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
  ended.was_sent, ended.calls = #accounts > 0, table.concat(calls, ';')
  ended.settlement = sent > 0 and 'unconfirmed' or ended.was_sent and 'refused' or 'not_sent'
  ended.queue_ms, ended.upstream_ms, ended.total_ms = '', '', now_ms - number('admitted_ms')
end

-- An existing record remains: an export may have returned it.
local is_recorded = ended.was_sent or reservation.entry
local new = {requests = 1, asked = number('images'), delivered = 0, withheld = 0, lost = 0, unconfirmed = 0, not_sent = 0}
if not is_recorded then new.requests, new.asked, new.not_sent = 0, 0, 1 end
-- Returns a function that adds a call, and returns the charged images of all so far and what they cost: the charges of the
-- answers, and for other images their share of the reserved cost. Never more than was reserved.
local function charging()
  local images, sharing, usd_micros = 0, 0, 0
  return function(delivered, withheld, unconfirmed, charge)
    local others = (ended.charges_withheld and withheld or 0) + (ended.charges_unconfirmed and unconfirmed or 0)
    images, usd_micros = images + delivered + others, usd_micros + (tonumber(charge) or 0)
    sharing = sharing + others + (charge == '' and delivered or 0)
    return images, math.min(number('cost'), usd_micros + cost_of(sharing))
  end
end
local charged, charge = 0, charging()
new.usd_micros = 0
for delivered, withheld, lost, unconfirmed, own in string.gmatch(ended.calls, ':(%d+),(%d+),(%d+),(%d+),?(%d*)') do
  new.delivered, new.withheld = new.delivered + delivered, new.withheld + withheld
  new.lost, new.unconfirmed = new.lost + lost, new.unconfirmed + unconfirmed
  charged, new.usd_micros = charge(delivered, withheld, unconfirmed, own)
end

local has_events
local function reply(status, usd_micros)
  return cjson.encode({status = status, outcome = ended.settlement, model = reservation.model, usd_micros = usd_micros,
    has_events = has_events})
end
local taken = {images = number('images'), usd_micros = number('cost')}
if reservation.settled then
  if by_expiry or (reservation.outcome == ended.settlement and reservation.calls == ended.calls) then
    return reply(reservation.settled == 'by itself' and not by_expiry and 'repeated' or 'same', new.usd_micros)
  end
  taken = {images = number('settled:charged'), usd_micros = number('settled:usd_micros')}
end

-- The difference between reserved and charged amounts, in every window that still exists.
local images, usd_micros = charged - taken.images, new.usd_micros - taken.usd_micros
local newly_charged = charged - number('settled:charged')
local limits, percents = {}, {}
if newly_charged > 0 then
  local function read(text) return text and text ~= '' and cjson.decode(text) or {} end
  limits = {read(tenant[1]), read(key).limits or {}}
  percents = read(tenant[2]).alert_percents or read(ARGV[3])
end
for _, window in ipairs(windows) do
  redis.call('HINCRBY', window.name, 'images', images)
  redis.call('HINCRBY', window.name, 'usd_micros', usd_micros)
  if newly_charged ~= 0 then
    redis.call('HINCRBY', window.name, 'charged_images', newly_charged)
    redis.call('HINCRBY', window.name, 'charged_usd_micros', new.usd_micros - number('settled:usd_micros'))
  end
  if #percents > 0 then
    local key_id = window.scope == 2 and reservation.key_id or ''
    has_events = cross_thresholds(base, key_id, window, limits[window.scope], percents, now_ms) or has_events
  end
end
for name, rate in pairs(rates) do
  if rate then
    local admitted, made = string.match(rate, '(%-?%d+) (%-?%d+)')
    -- Never below zero: after the clock was set back the second may be a repeated one.
    redis.call('HSET', name, reservation.second, admitted .. ' ' .. math.max(0, made + images))
  end
end
for _, scope in ipairs(scopes) do
  for _, name in ipairs({'open', 'batch_open'}) do redis.call('ZREM', scope .. name, id) end
end

local how = late and reservation.settled or by_expiry and 'by expiry' or 'by itself'
if ended.settlement == 'unconfirmed' and reservation.identity then
  redis.call('SET', base .. 'unknown:' .. reservation.identity, id, 'PX', reservation.unknown_ms)
end
local settled = {
  'settled', how, 'settled_ms', now_ms, 'outcome', ended.settlement, 'calls', ended.calls, 'settled:charged', charged,
  'queue_ms', ended.queue_ms, 'upstream_ms', ended.upstream_ms, 'total_ms', ended.total_ms, 'price_basis', ended.price_basis or ''}
for name, value in pairs(late and {['late:' .. late.task] = cjson.encode(late)} or {tasks = ended.tasks}) do
  table.insert(settled, name)
  table.insert(settled, value)
end
local moved = {}
for name, value in pairs(new) do
  local difference = value - number('settled:' .. name)
  moved[name] = difference
  if difference ~= 0 then
    local field = reservation.key_id .. '|' .. name .. '|' .. reservation.model
    redis.call('HINCRBY', sums, field, difference)
    if reservation.batch_id and is_recorded and name ~= 'not_sent' then
      redis.call('HINCRBY', batch_sums, reservation.batch_id .. '|' .. field, difference)
    end
  end
  table.insert(settled, 'settled:' .. name)
  table.insert(settled, value)
end
redis.call('ZADD', base .. 'days', sheet, sheet)

if is_recorded then
  local upstreams = amounts_by_upstream(ended.calls, new.asked, charging())
  local kept, moved_upstreams = add_splits(split_sums, splits, reservation, new, moved, upstreams, is_correction)
  for _, value in ipairs(kept) do table.insert(settled, value) end
  local amounts = is_correction and moved or new
  local record = {'reservation', id, 'admitted_ms', reservation.admitted_ms,
    'request_id', reservation.request_id, 'key_id', reservation.key_id, 'model', reservation.model, 'asked', amounts.asked,
    'delivered', amounts.delivered, 'withheld', amounts.withheld, 'lost', amounts.lost, 'unconfirmed', amounts.unconfirmed,
    'price_usd_micros', cost_of(1), 'usd_micros', amounts.usd_micros, 'outcome', ended.settlement, 'calls', ended.calls,
    'queue_ms', ended.queue_ms, 'upstream_ms', ended.upstream_ms, 'total_ms', ended.total_ms}
  if (ended.price_basis or '') ~= '' then
    table.insert(record, 'price_basis')
    table.insert(record, ended.price_basis)
  end
  for _, name in ipairs({'batch_id', 'custom_id', 'idempotency', 'tags', 'user', 'summed', 'upstream_usd'}) do
    if reservation[name] then
      table.insert(record, name)
      table.insert(record, reservation[name])
    end
  end
  if is_correction then
    for _, value in ipairs({'correction_of', reservation.day, 'requests', moved.requests, 'upstreams', moved_upstreams}) do
      table.insert(record, value)
    end
  elseif reservation.entry then
    local corrects = (reservation.corrects and reservation.corrects .. ' ' or '') .. reservation.entry
    redis.call('XDEL', ledger, reservation.entry)
    redis.call('HSET', KEYS[1], 'corrects', corrects)
    table.insert(record, 'corrects')
    table.insert(record, corrects)
  end
  redis.call('HSET', KEYS[1], 'entry', redis.call('XADD', ledger, '*', unpack(record)))
  local day_ends_s = is_correction and tonumber(ARGV[5]) or reservation.day_ends_s
    or (math.floor(number('admitted_ms') / 86400000) + 1) * 86400
  local wanted_end_s = day_ends_s + tonumber(ARGV[2]) * 86400
  if not records_end_s or (records_end_s < wanted_end_s and records_end_s * 1000 > now_ms) then
    records_end_s = wanted_end_s
    redis.call('HSET', base .. 'records_end', sheet, records_end_s)
  end
  for _, name in ipairs({ledger, batch_sums, split_sums}) do redis.call('EXPIREAT', name, records_end_s) end
end

if not is_recorded and not by_expiry then
  redis.call('DEL', KEYS[1])
else
  -- Counts it among the tenant's settled reservations of the last 15 minutes, which admit.lua limits, in 5-minute buckets.
  if not reservation.settled then
    local slice, stale = math.floor(now_ms / 1000 / RECENT_SLICE_S), {}
    for _, name in ipairs(recent) do
      if math.abs(tonumber(name) - slice) > RECENT_S / RECENT_SLICE_S then table.insert(stale, name) end
    end
    if #stale > 0 then redis.call('HDEL', base .. 'recent', unpack(stale)) end
    redis.call('HINCRBY', base .. 'recent', slice, 1)
    redis.call('EXPIRE', base .. 'recent', RECENT_S + RECENT_SLICE_S)
  end
  redis.call('HSET', KEYS[1], unpack(settled))
  local least_s = new.unconfirmed > 0 and UNCONFIRMED_KEPT_S or SETTLED_KEPT_S
  redis.call('EXPIRE', KEYS[1], math.max(how == 'by expiry' and EXPIRED_KEPT_S or least_s, number('kept_s')))
end
return reply(reservation.settled and 'corrected' or 'settled', new.usd_micros - number('settled:usd_micros'))
