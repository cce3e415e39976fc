-- Calendar windows of quotas in the configured time zone. Stands before admit.lua and credit.lua.
-- Offsets  "SINCE:OFFSET" joined by ",", both in seconds: the zone's offset from UTC from each Unix second on; the first
--          also before it, the last also after the next. "" is UTC
-- Clock    of the caller

-- Year, month and day of a day since 1970 (Richards, "Explanatory Supplement to the Astronomical Almanac", 15.11.3).
local function civil(days)
  local f = days + 2441951 + math.floor(math.floor((4 * days + 10036629) / 146097) * 3 / 4)
  local e = 4 * f + 3
  local h = 5 * math.floor(e % 1461 / 4) + 2
  local month = (math.floor(h / 153) + 2) % 12 + 1
  return math.floor(e / 1461) - 4716 + math.floor((14 - month) / 12), month, math.floor(h % 153 / 5) + 1
end

-- Returns the windows at a second: day "YYYYMMDD" and month "YYYYMM", and day_ends_s and month_ends_s, the first second of
-- the next. Where a clock change skips midnight, a day begins at the first second after it.
local function windows_at(now_s, offsets)
  local spans = {}
  for since, offset in string.gmatch(offsets, '(%d+):(%-?%d+)') do
    table.insert(spans, {since_s = tonumber(since), offset_s = tonumber(offset)})
  end
  if #spans == 0 then spans[1] = {since_s = 0, offset_s = 0} end
  local at = 1
  while spans[at + 1] and spans[at + 1].since_s <= now_s do at = at + 1 end
  local today = math.floor((now_s + spans[at].offset_s) / 86400)

  local function begins_s(day)
    for i = at, #spans do
      local begin_s = day * 86400 - spans[i].offset_s
      if i > at then begin_s = math.max(begin_s, spans[i].since_s) end
      if not spans[i + 1] or begin_s < spans[i + 1].since_s then return begin_s end
    end
  end

  local year, month, day = civil(today)
  local following = today + 1
  while select(2, civil(following)) == month do following = following + 1 end
  return {
    day = string.format('%04d%02d%02d', year, month, day), month = string.format('%04d%02d', year, month),
    day_ends_s = begins_s(today + 1), month_ends_s = begins_s(following),
  }
end
