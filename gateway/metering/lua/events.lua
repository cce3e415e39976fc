-- Events about quotas, decided where their counters move. Stands before admit.lua, settle.lua and credit.lua, after
-- tenants/lua/streams.lua; BASE is the tenant's "PREFIX:{NAME}:".
--   BASE .. "events"  the tenant's events
--   BASE .. "day:YYYYMMDD", "month:YYYYMM", and those of the key, have also: charged_images and charged_usd_micros, without
--          reservations; credited_images and credited_usd_micros, see credit.lua; alerted:QUOTA, "PERCENT LIMIT": the
--          highest percentage that an event reported, and of what; exhausted:QUOTA, the limit of the first refusal. A
--          quota that is raised is reported anew
-- TTL      that of the windows
-- Clock    of the caller
local QUOTAS = {
  {limit = 'images_per_day', period = 'day', measure = 'images', quota = 'images_per_day'},
  {limit = 'images_per_month', period = 'month', measure = 'images', quota = 'images_per_month'},
  {limit = 'usd_micros_per_month', period = 'month', measure = 'usd_micros', quota = 'usd_per_month'},
  {limit = 'soft_usd_micros_per_month', period = 'month', measure = 'usd_micros', budget = 'soft_usd_per_month'},
}

-- Returns the data of an event about a quota. A window has name, period and ends_s.
local function describe_quota(base, key_id, quota, window, used, limit)
  local shown = quota.measure == 'usd_micros' and dollars or function(count) return count end
  local digits = string.match(window.name, '%d+$')
  return {
    tenant = string.match(base, '{(.+)}'), key_id = key_id ~= '' and key_id or nil,
    quota = quota.quota, budget = quota.budget, used = shown(used), limit = shown(limit),
    window = (string.gsub(digits, '^(%d%d%d%d)(%d%d)', '%1-%2', 1):gsub('^(%d+%-%d%d)(%d%d)$', '%1-%2')),
    resets_at = window.ends_s,
  }
end

-- Returns the least amount that is `percent` of a limit, exactly: their product may exceed 2^53.
local function share_of(limit, percent)
  return math.floor(limit / 100) * percent + math.ceil(limit % 100 * percent / 100)
end

-- Returns whether no event has reported a percentage: `mark` is what alerted:QUOTA holds. Of a raised quota the same
-- percentage is a larger amount.
local function is_unreported(mark, limit, percent)
  local reached, of = string.match(mark or '', '^(%d+) (%d+)$')
  if not reached then return true end
  if limit <= tonumber(of) then return percent > tonumber(reached) end
  return share_of(limit, percent) > share_of(tonumber(of), tonumber(reached))
end

-- Appends an event for each of `percents`, ascending, of each quota of a window that its charges have reached and that no
-- event in this window has reported. Returns true if there was any.
local function cross_thresholds(base, key_id, window, limits, percents, now_ms)
  local has_crossed = false
  for _, quota in ipairs(QUOTAS) do
    local limit = quota.period == window.period and limits[quota.limit] or 0
    if limit > 0 then
      local mark = 'alerted:' .. quota.limit
      local found = redis.call('HMGET', window.name, 'charged_' .. quota.measure, 'credited_' .. quota.measure, mark)
      local used = (found[1] or 0) - (found[2] or 0)
      for _, percent in ipairs(percents) do
        if is_unreported(found[3], limit, percent) and used >= share_of(limit, percent) then
          local data = describe_quota(base, key_id, quota, window, used, limit)
          data.percent = percent
          local subject = quota.budget and 'budget' or 'quota'
          append_event(base .. 'events', subject .. '.threshold_crossed', now_ms, cjson.encode(data))
          redis.call('HSET', window.name, mark, string.format('%d %.0f', percent, limit))
          has_crossed = true
        end
      end
    end
  end
  return has_crossed
end
