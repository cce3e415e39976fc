-- Outages of Redis and steps of its clock. Shared, after shares.lua.

-- After the clock was set back, what was begun later than now begins now: nothing lasts longer than it was to last. Leases
-- that were last renewed before a step forward and back again may look expired.
local function set_back()
  set_meta('grace_until', now + grace_us())
  for _, name in ipairs(redis.call('ZRANGE', K.turns, 0, -1)) do redis.call('ZADD', K.turns, now, name) end
  local longest = {leases = setting('lease_us'), processes = 2 * SILENCE, holders = MINUTE, used = 2 * window(), recent = 0,
    served = 0}
  for name, us in pairs(longest) do
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', K[name], '(' .. moment(now + us), '+inf')) do
      redis.call('ZADD', K[name], now + us, member)
    end
  end
  for _, name in ipairs({'well_since', 'keeper_until'}) do
    if setting(name) > now then set_meta(name, now) end
  end
  for field, rest in pairs(all_rests()) do
    if rest.since_us > now then
      rest.until_us, rest.since_us = math.max(now, rest.until_us - (rest.since_us - now)), now
      rest.firm_us = rest.firm_us and math.min(rest.firm_us, rest.until_us)
      keep_rest(field, rest)
    end
  end
end

-- Leases are not expired in the first moments after an outage, or a step of the clock forward: their processes renew them
-- first.
local function note_time()
  local seen, lease_us = setting('seen_at'), setting('lease_us')
  if seen > now + SKEW then
    set_back()
  elseif seen > 0 and lease_us > 0 and now - seen > lease_us / 4 + SILENCE then
    set_meta('grace_until', now + grace_us())
  end
  if seen == 0 or math.abs(now - seen) > SKEW then set_meta('seen_at', now) end
end
